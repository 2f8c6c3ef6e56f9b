"""Priority sort by selection: again and again the vector of the highest priority that is left."""


def sort(bits, priorities, num_outputs):
    """The `num_outputs` vectors of bits [n, num_bits] of highest priority [n], the highest first."""
    left, chosen = list(range(len(priorities))), []
    for _ in range(num_outputs):
        best = left[0]
        for i in left:
            if priorities[i] > priorities[best]:
                best = i
        left.remove(best)
        chosen.append(bits[best])
    return chosen
