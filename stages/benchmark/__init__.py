"""How fast a stage trains, beside other trainers and beside what the machine can do."""
