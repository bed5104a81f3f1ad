//! The values of the `code` label.
//!
//! A status is whatever a pod says, from 100 to 999: as a label it would be up to 900 series for each pod. The codes that
//! applications and this router answer with keep their own; any other is counted with its class.

/// What a response with this status is counted as: its code where that is a common one, else its class, `2xx` to `5xx`, or
/// `other`.
pub fn code_label(status: u16) -> &'static str {
    CODES.iter().find(|(code, _)| *code == status).map_or_else(|| class(status), |(_, label)| label)
}

fn class(status: u16) -> &'static str {
    match status {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500..600 => "5xx",
        _ => "other",
    }
}

/// Those of RFC 9110, RFC 6585 and RFC 8470 that are in use, and 444 and 499 for no answer.
const CODES: [(u16, &str); 43] = [
    (101, "101"),
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (204, "204"),
    (206, "206"),
    (301, "301"),
    (302, "302"),
    (303, "303"),
    (304, "304"),
    (307, "307"),
    (308, "308"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (408, "408"),
    (409, "409"),
    (410, "410"),
    (411, "411"),
    (412, "412"),
    (413, "413"),
    (414, "414"),
    (415, "415"),
    (416, "416"),
    (417, "417"),
    (422, "422"),
    (423, "423"),
    (425, "425"),
    (426, "426"),
    (429, "429"),
    (431, "431"),
    (444, "444"),
    (499, "499"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    (507, "507"),
    (508, "508"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_labels_of_all_codes_are_few_and_say_their_class() {
        let labels: BTreeSet<_> = (100..1000).map(code_label).collect();
        assert_eq!(labels.len(), CODES.len() + 6);
        for (status, label) in [(200, "200"), (499, "499"), (299, "2xx"), (418, "4xx"), (599, "5xx"), (999, "other")] {
            assert_eq!(code_label(status), label);
        }
        for (code, label) in CODES {
            assert_eq!(code.to_string(), label);
        }
    }
}
