"""The report: one self-contained HTML page about a finished run. Reads runs through artifacts/; no Ray.

    options    the caller's options                        source     the run, its job, plan, tables and model
    selection  which groups and channels are shown         rows       fetches the images of the shown rows again
    probe      runs the model on them, keeps small maps    evidence   transforms, densities, extremes, score by images
    sight      what a channel sees, and images that excite  cam        Grad-CAM beside the map of the ranked channels
    geography  latitude and longitude, if the data have it comparison a second run beside this one
    pictures   thumbnails, maps, axes as small files       page       data, pictures and assets into one file
    tokens     how a transformer's tokens lie on the image  glossary   a sentence for each of the page's terms
    row_choice which images are shown
    trust      expected stability; what `pcace evaluate` and `pcace select` have written
    findings   the results of all these modules            build      runs all of them in order

assets/ holds the page itself: template, style and scripts.
"""
