"""Are steps that go where the confidence is low worth more than as many steps spent otherwise?"""
