"""Robot x goal x variations on MuJoCo: the environments that move. Pictures are in `rendering`."""
