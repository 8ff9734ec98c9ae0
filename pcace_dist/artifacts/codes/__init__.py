"""Kept codes: the codes of each row in every channel, as Parquet, so that later questions need no model.

    attempts/<id>/codes.parquet    a row per image, a row group per unit
    codes/index.json               which of these files count, and what is in them

Columns of a codes file, all readable by plain pyarrow:

    file, row_group, row, id       where the image lies
    fold_key                       uint64; the fold is fold_key modulo the number of folds
    column:NAME                    every plain column of the data set, in its own type
    target:NAME                    double, the target's value
    codes:LAYER[0:64]              fixed-size binary, channels x components codes (uint8, channel by channel)
    means:LAYER[0:64]              fixed-size binary, int16 (little endian) of each channel on the plan's grid
    effect:NAME                    double, the value whose effects are computed; null where a row has no axis
    effects:LAYER[0:64]            fixed-size binary, int16, l of each channel for each target with effects

Reading a block of channels reads its columns only; pages carry checksums. columns.py names and converts the columns,
writer.py writes a file, index.py says which files count, stored.py reads blocks of channels, kept_unit.py a unit's
rows. Knows files and the statistic, no Ray.
"""
