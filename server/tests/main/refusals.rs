//! The gateway refuses, the portal explains: the two lists are one.

use gateway::Refusal;

#[test]
fn every_refusal_of_the_gateway_has_its_page() {
    let refused: Vec<_> = Refusal::ALL
        .iter()
        .map(|r| (i16::from(r.number()), r.slug(), r.status().as_u16(), r.title()))
        .collect();
    let explained: Vec<_> = app::problems::ALL
        .iter()
        .map(|p| (p.number, p.slug, p.status, p.title))
        .collect();
    assert_eq!(refused, explained);
}

#[test]
fn every_refusal_links_to_a_page_that_exists() {
    let (_, entries) = app::routes::table().split();
    for refusal in Refusal::ALL {
        let there = entries.iter().any(|e| e.path == refusal.link());
        assert!(
            there,
            "{} links to {}, which is no page",
            refusal.slug(),
            refusal.link()
        );
    }
}
