"""What a dataset's card and its `croissant.json` both say of people, origin and use.

The keys are properties of Croissant's RAI vocabulary; the card has them under the headings of
*Datasheets for Datasets* (Gebru et al., 2021). Nothing here depends on the rows of a release.
"""

from __future__ import annotations

#: Property of `http://mlcommons.org/croissant/RAI/` -> its text.
RAI: dict[str, str] = {
    "dataCollection": "Nobody was asked or paid for this dataset. Its sources are logs of feedback "
    "that services and research groups collected and published; their pages say when, from whom "
    "and on what terms.",
    "dataCollectionType": "Secondary data analysis",
    "dataCollectionRawData": "Ratings, clicks, plays, reviews and installs with their times, texts "
    "of the items, and what a service knew of a person, as each source published them.",
    "dataPreprocessingProtocol": "Each scene takes one behavior of one person and shows what came "
    "before it as text. Where a source did not log what was on the screen, the exposure is drawn. "
    "Texts are cleaned, pages of markup and signs that could act as control tokens taken out. "
    "Users of the test scenes do not occur in the train scenes.",
    "dataImputationProtocol": "None: what a source does not state is left out of the text.",
    "dataAnnotationProtocol": "The real behavior is the label of a scene. Two language models "
    "wrote decision processes for the train scenes; a process is called chosen or rejected by "
    "whether it ended in the real behavior, not by a person's judgement.",
    "machineAnnotationTools": "Language models, named with their revisions under Models in the "
    "card, and usermirrorer, which selected the pairs by their uncertainty.",
    "dataUseCases": "Training and testing simulators of users of recommender systems; studies of "
    "behavior in aggregate. Not for finding out who people are, for predicting or influencing what "
    "a particular person does, or for deciding about anyone.",
    "dataLimitations": "A reconstructed exposure is not what the person saw. Decision processes "
    "are plausible accounts by language models, not what a person thought. Leaving without a "
    "choice is not in the data.",
    "dataBiases": "The people behind the sources are no sample of all people: they used one "
    "service, at one time, mostly in English. Popular items are chosen more often than others, and "
    "what people could choose was chosen by the recommenders of the time.",
    "dataSocialImpact": "Simulators can spare people from experiments with recommenders. The same "
    "skill can be turned to manipulating them, which this dataset must not be used for.",
    "personalSensitiveInformation": "Rows describe real, pseudonymous people as the sources "
    "published them. Depending on the source that includes age, gender, occupation or region, and "
    "reviews in their own words.",
    "dataReleaseMaintenancePlan": "A published version never changes. Corrections and further "
    "sources come as a new version, whose card lists the rows added, removed and changed. A row "
    "whose source withdraws it is left out of the next version.",
}
