"""Which lines of ldcorn.h a program has reached, by section: from what gcov wrote about it."""
import re


def lines_of(path, lines):
    """Adds one ldcorn.h.gcov to `lines`: {number: was it reached by any?}."""
    with open(path, errors='replace') as f:
        for line in f:
            m = re.match(r' *([^:]+): *(\d+):(.*)', line)
            if m and m.group(1).strip() != '-':
                k = int(m.group(2))
                lines[k] = lines.get(k, False) or not re.match(r'[#=]', m.group(1))
    return lines


def sections(lines):
    """Prints a line for each section. -> {section: (percent, [(number, text) of what is not reached])}."""
    with open('ldcorn.h') as f:
        text = f.read().split('\n')
    starts = [(i + 1, m.group(1)) for i, l in enumerate(text) for m in [re.match(r'/\* @(\w+) -{5,}$', l)] if m]
    out = {}
    for (at, name), (end, _) in zip(starts, starts[1:] + [(len(text), '')]):
        mine = [k for k in sorted(lines) if at <= k < end]
        if not mine:
            continue
        missed = [(k, text[k - 1].strip()) for k in mine if not lines[k]]
        out[name] = 100 * (len(mine) - len(missed)) / len(mine), missed
        print('%-8s %5d of %5d lines  %5.1f %%' % ('@' + name, len(mine) - len(missed), len(mine), out[name][0]))
    return out
