"""Images on the disk: files, folders and archives of them, and the crop that every program takes."""
