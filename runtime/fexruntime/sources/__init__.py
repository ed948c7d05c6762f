"""Where frames come from: image files, encoded bytes, arrays of several libraries, folders and lists of them."""
