"""python -m eval.cmmmu MODEL --data FOLDER: see `eval.command`."""

from eval.command import run

if __name__ == "__main__":
    run("cmmmu")
