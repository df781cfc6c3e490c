"""Variables that processes share: their files, and how several processes write them without tearing or hanging."""
