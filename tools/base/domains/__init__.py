"""Text of the sample domains: each module makes items of one domain from a `random.Random`."""
