"""The report: one self-contained HTML page about a finished run. Reads runs through artifacts/; no Ray.

    options    the caller's options                        source     the run, its job, plan, tables and model
    selection  which groups and channels are shown         row_choice which images are shown
    sight/     what channels see, by running the model     evidence   transforms, densities, extremes, score by images
    geography  latitude and longitude, if the data have it comparison a second run beside this one
    pictures   thumbnails, maps, axes as small files       page       data, pictures and assets into one file
    words      columns and words beside channels           naming     how well a suggested name holds
    history    the runs of a schedule                      glossary   a sentence for each of the page's terms
    trust      expected stability; what `pcace evaluate` and `pcace select` have written
    findings   the results of all these modules            build      runs all of them in order
    paper      the page as a PDF

assets/ holds the page itself: template, style and scripts.
"""
