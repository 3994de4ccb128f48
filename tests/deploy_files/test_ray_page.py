"""The page about Ray: its transcript has a place, and a new one takes the old one's."""

from deploy_files.report import PAGE, with_transcript


def test_a_new_transcript_replaces_the_old_one_and_nothing_else():
    """The page is written by hand around it."""
    once = with_transcript(PAGE.read_text(), "$ first\n", "2026-01-01")
    twice = with_transcript(once, r"$ \1 second", "2026-01-02")
    assert "$ first" in once
    assert r"$ \1 second" in twice
    assert "$ first" not in twice
    assert with_transcript(twice, "$ first\n", "2026-01-01") == once


def test_pods_are_waited_for_once_they_are_there():
    """`kubectl wait` for pods by label fails at once while there are none."""
    after_apply = PAGE.read_text().partition("kubectl apply -f deploy/kuberay.yaml\n")[2]
    first, second = after_apply.splitlines()[:2]
    assert "rayservice/shoal" in first
    assert "pod -l" in second


def test_both_pages_say_what_crosses_rays_network():
    """The token between our own processes is as readable there as Ray's connections are."""
    for page in (PAGE, PAGE.with_name("security.md")):
        assert "plaintext" in page.read_text()
        assert "RAY_USE_TLS=1" in page.read_text()


def test_the_page_names_every_file_that_operators_start_from():
    """Whoever reads the page finds the file for each place to run."""
    page = PAGE.read_text()
    for name in ("cluster.yaml", "cluster.local.yaml", "kuberay.yaml", "serve.yaml"):
        assert f"deploy/{name}" in page
    assert "Dockerfile" in page
