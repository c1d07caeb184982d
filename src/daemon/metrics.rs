//! One page of metrics from several services' pages.
//!
//! In the text format each family is told once: its `HELP` and `TYPE`, then all of its samples together. Each service's
//! proxy writes a page of its own, so the pages are sorted into each other by family here.

use std::collections::BTreeMap;

/// The pages as one: families in the order in which they first come, each with its head once.
pub(super) fn joined(pages: &[String]) -> String {
    let mut order: Vec<&str> = Vec::new();
    let mut families: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    for page in pages {
        let mut family = "";
        for line in page.lines() {
            let head = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
            if let Some(head) = head {
                family = head.split(' ').next().unwrap_or_default();
            }
            if !families.contains_key(family) {
                order.push(family);
            }
            let (heads, samples) = families.entry(family).or_default();
            match head {
                Some(_) if heads.contains(&line) => {}
                Some(_) => heads.push(line),
                None => samples.push(line),
            }
        }
    }
    let mut page = String::with_capacity(pages.iter().map(String::len).sum());
    for family in order {
        let (heads, samples) = &families[family];
        for line in heads.iter().chain(samples) {
            page.push_str(line);
            page.push('\n');
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_is_told_once_with_all_of_its_samples() {
        let page = |service: &str| {
            format!(
                "# HELP a_total Requests.\n# TYPE a_total counter\na_total{{service=\"{service}\"}} 1\n\
                 # HELP b How long.\n# TYPE b histogram\nb_bucket{{service=\"{service}\",le=\"+Inf\"}} 2\n\
                 b_sum{{service=\"{service}\"}} 3\n"
            )
        };
        let expected = "\
# HELP a_total Requests.
# TYPE a_total counter
a_total{service=\"x\"} 1
a_total{service=\"y\"} 1
# HELP b How long.
# TYPE b histogram
b_bucket{service=\"x\",le=\"+Inf\"} 2
b_sum{service=\"x\"} 3
b_bucket{service=\"y\",le=\"+Inf\"} 2
b_sum{service=\"y\"} 3
";
        assert_eq!(joined(&[page("x"), page("y")]), expected);
        assert_eq!(joined(&[page("x")]), page("x"), "one page stays as it is");
        assert_eq!(joined(&[]), "");
    }
}
