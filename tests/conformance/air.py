"""What IHE AI Results asks of a maker of results, how it is done, and the test that shows it."""

from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parents[1]
_SR = "unit/workers/results/test_sr.py"
_SEG = "unit/workers/results/test_seg.py"
_MATRIX = "conformance/test_result_matrix.py"


class Line(NamedTuple):
    """One line of the checklist; ``evidence`` is a test's file under `tests` and its name."""

    asked: str
    done: str
    evidence: tuple[str, str]


CHECKLIST = (
    Line(
        "Results are instances of the study of the images, in series of their own",
        "same Study Instance UID, series 9001 and above, described as AI",
        (
            "unit/workers/results/test_writer.py",
            "test_a_job_writes_segmentation_report_and_picture_in_series_of_their_own",
        ),
    ),
    Line(
        "One result root: an SR of TID 1500, Imaging Measurement Report",
        "Comprehensive 3D SR; Enhanced or Comprehensive SR where a destination is set to it",
        (_SR, "test_every_document_class_carries_the_same_report"),
    ),
    Line(
        "The template's content is valid",
        "judged by PixelMed's validator of SR templates",
        ("conformance/test_written_results.py", "test_template_validator_has_no_error"),
    ),
    Line(
        "The observer is a device with its UID, name, maker, model and serial number (TID 1004)",
        "the UID is another one when the network is retrained",
        (_SR, "test_the_device_changes_when_the_network_does"),
    ),
    Line(
        "The algorithm is identified (TID 4019), for the whole and for each finding",
        "name, version, maker, family; digest and settings as parameters",
        (_SR, "test_the_algorithm_is_identified_for_the_report_and_for_every_finding"),
    ),
    Line(
        "Contributing Equipment names the algorithm as processing equipment",
        "beside the scanner, with version, Device UID and digest",
        (_SR, "test_contributing_equipment_names_scanner_and_algorithm"),
    ),
    Line(
        "Language and procedure reported (TID 1204, 1500)",
        "en-US; the study's own coded procedure where it has one",
        (_SR, "test_who_and_what_was_observed_is_said"),
    ),
    Line(
        "The images that the result is about are listed: image library and evidence",
        "TID 1600 with modality and study date; every instance pointed at is in the evidence",
        (_SR, "test_everything_that_the_report_points_at_is_in_its_evidence"),
    ),
    Line(
        "Measurements: groups with finding, site, value, unit and what they were measured on",
        "TID 1501 for axes, TID 1411 for volume and attenuation, TID 1410 for boxes",
        (_SR, "test_each_lesion_has_geometry_first_and_values_second_under_one_tracking_uid"),
    ),
    Line(
        "Locations: coordinates on the image that shows the finding",
        "SCOORD on the source frame",
        (_SR, "test_axes_are_inferred_from_lines_on_the_frame_that_shows_the_lesion_best"),
    ),
    Line(
        "Regions: a Segmentation in the space of the images, BINARY or FRACTIONAL",
        "planes are the source's own numbers, frame by frame",
        (_SEG, "test_every_frame_lies_exactly_where_its_source_lies"),
    ),
    Line(
        "Segments are coded, identify the algorithm, and are tracked",
        "category, type, anatomic region, algorithm, Tracking ID and UID",
        (_SEG, "test_segments_say_what_they_are_and_who_drew_them"),
    ),
    Line(
        "Parametric maps carry real world values with quantity and unit",
        "class activation of 0 to 1, where a destination asks",
        (
            "unit/workers/results/test_contours_and_maps.py",
            "test_a_map_holds_the_evidence_in_16_bits_and_says_what_it_is",
        ),
    ),
    Line(
        "Qualitative findings: presence and certainty as codes and numbers",
        "Presence of property, Certainty of Finding; what is absent is evaluated",
        (_SR, "test_what_is_absent_is_evaluated_and_not_measured"),
    ),
    Line(
        "Tracking identifiers: one UID for one lesion in every object",
        "the gate refuses a report that lacks one",
        (_SR, "test_values_carry_probabilities_measurements_and_the_segment"),
    ),
    Line(
        "That nothing was found is a result",
        "an SR with the coded summary, and no segmentation",
        (_SR, "test_a_study_without_findings_says_so_and_shows_what_was_looked_at"),
    ),
    Line(
        "That nothing was analysed is a result, with the reason",
        "an SR with the coded reason, and our own in words",
        (_SR, "test_a_study_that_was_not_analysed_says_why"),
    ),
    Line(
        "Simplified forms for displays that show neither SR nor SEG",
        "presentation state, secondary capture, document, key images, each where asked for",
        (_MATRIX, "test_every_kind_is_valid_and_comes_back_unchanged_from_a_pacs"),
    ),
    Line(
        "A result that replaces another names it",
        "Predecessor Documents; a rejection note of IOCM where a destination is set to it",
        (_SR, "test_a_repeated_analysis_names_the_report_it_replaces"),
    ),
    Line(
        "What is stored is valid, and kept as it was sent",
        "dciodvfy has no error; Orthanc gives back the same bytes after C-STORE and STOW-RS",
        (_MATRIX, "test_every_kind_is_valid_and_comes_back_unchanged_from_a_pacs"),
    ),
    Line(
        "Findings are shown by a display (Image Display: segmentations, measurements)",
        "OHIF draws the segments on the images",
        ("integration/test_dicomweb_viewers.py", "test_ohif_draws_the_segmentation"),
    ),
)


def is_there(evidence: tuple[str, str]) -> bool:
    """Return whether a test of that name is in that file."""
    file, name = evidence
    path = TESTS / file
    return path.exists() and f"def {name}(" in path.read_text()
