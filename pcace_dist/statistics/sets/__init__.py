"""Sets of channels: how few of a layer carry the output, or tell it (docs/method.md, section 8).

moments.py adds up integers over rows: second moments by fold. carried.py chooses sets by what goes through the channels
(`removal_order`, `carrying_order`), told.py by what they tell together (`telling_order`). curves.py has the jackknife:
the share of the first k channels with an interval, and how many channels a share takes.

Covariances in, orders and shares out; numpy float64. Nothing here knows images, files or models.
"""
