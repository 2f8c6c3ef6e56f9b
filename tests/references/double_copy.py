"""The double copy task, one episode at a time: observations, target and mask as lists."""


def episode(characters, num_characters):
    end, placeholder = num_characters, num_characters + 1
    observations, target, mask = [], [], []
    for character in characters:
        observations, target, mask = [*observations, character], [*target, 0], [*mask, 0]
    observations, target, mask = [*observations, end], [*target, 0], [*mask, 0]
    for _ in range(2):
        for character in characters:
            observations, target, mask = [*observations, placeholder], [*target, character], [*mask, 1]
    return observations, target, mask
