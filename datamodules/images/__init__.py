"""Images on the disk: reading them from folders and archives, listing them with their labels, and cropping them."""
