"""A folder of pictures: planned, divided into units, carried out, with a journal of what became of each picture."""
