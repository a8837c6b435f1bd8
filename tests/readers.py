"""What readers find, as (x, y) of train, (x, y) of test, and names."""

from vfd_tf.data import image_folders


def parts(source, count, names):
    """((x, y) of train, (x, y) of test, names) of what a reader found."""
    x, y = source.everything()
    return (x[:count], y[:count]), (x[count:], y[count:]), names


def read_folder(path, side=None):
    return parts(*image_folders.read_folder(path, side))
