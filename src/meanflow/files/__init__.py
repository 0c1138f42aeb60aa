"""Reading and writing of files of any kind."""
