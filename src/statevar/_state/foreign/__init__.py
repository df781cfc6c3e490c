"""What in the objects of other libraries is state, one file for each library, loaded when such an object is met."""
