"""`python -m shoal.bench`: one worker of a load run (`shoal.bench.worker`)."""

from shoal.bench.worker import main

if __name__ == "__main__":
    main()
