"""The overview of a store for the person on call: what is seen, how, and whether all is well."""
