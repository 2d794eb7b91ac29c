"""What the tests on real engines share. No mocks of our own ports."""
