"""One page of HTML for a folder of results: ``model`` is what it shows, ``read_…`` fill it, ``page`` writes it."""
