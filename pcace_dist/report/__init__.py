"""The report: one self-contained HTML page about a finished run. Reads runs through artifacts/; no Ray.

    options    what the caller asked for                   source     the run, its job, plan, tables and model
    selection  which groups and channels are shown         rows       fetches the shown rows' images again
    probe      runs the model on them, keeps small maps    evidence   transforms, densities, extremes, score by images
    synthesis  images that excite a channel                cam        Grad-CAM beside the map of the ranked channels
    geography  latitude and longitude, where there are     comparison a second run beside this one
    pictures   thumbnails, maps, axes as small files       page       data, pictures and assets into one file
    findings   what all of these have found out            build      all of it in order

assets/ holds the page itself: template, style and scripts.
"""
