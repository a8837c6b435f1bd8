"""Train and evaluate: python run.py --method=hat --vfd_lambda=0.01 (--help for more)."""

import sys


def main() -> int:
    """`vfd_tf.command.main`, quiet at Ctrl-C while TensorFlow is loaded."""
    try:
        from vfd_tf import command
    except KeyboardInterrupt:
        print("\nStopped; nothing had begun.")
        return 1
    return command.main()


if __name__ == "__main__":
    sys.exit(main())
