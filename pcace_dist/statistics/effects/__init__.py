"""Effects: the share of the target's variance that goes through a channel, to first order (docs/method.md, section 7).

    l_c(i)    =  < g_c , a_c(i) - mean a_c >      g_c: the gradient of the target with respect to the channel's map
    effect_c  =  Cov(l_c, y) / Var(y)

Pure tensors and arrays, as all of statistics/. axes.py makes the gradients' mean and its noise from the pilot, plan.py
is what is frozen of them, sums.py adds up integers, scores.py gives effects with intervals.
"""
