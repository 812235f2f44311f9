"""The data sets, one file each (or one file for a family). ``minidl.data.load`` finds them by itself."""
