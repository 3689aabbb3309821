"""The quickstart: a drawn bilingual world on which all stages train, and are measured, in minutes on a CPU."""
