"""Train and evaluate: python run.py --method=hat --vfd_lambda=0.01 (--help for more)."""

import sys


def main() -> int:
    """The command line, quiet at Ctrl-C while TensorFlow is loaded."""
    try:
        from vfd_tf.cli.main import main as command_line
    except KeyboardInterrupt:
        print("\nStopped; nothing had begun.")
        return 1
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
