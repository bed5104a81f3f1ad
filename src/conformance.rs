//! What binds an HTTP/1.1 and WebSocket gateway, clause by clause: where it is enforced, and by which test it is known.
//!
//! The router is a gateway (RFC 9110 section 3.7): a server to its clients, a client to the pods. Every MUST that is its
//! own business is a row here. A test that has a clause's number in its name is in this table, and each name in the table
//! is a test's: the tidy suite holds both together. Beyond these, `tests/it/corpus` runs some four hundred literal inputs
//! through the router and has another parser (h11) read the same bytes.
//!
//! "hyper" is hyper's server, which reads requests and writes responses, but for a 101; [`core::wire`](crate::core::wire) is
//! the router's own half towards pods, and that one answer.
//!
//! # RFC 9112, HTTP/1.1
//!
//! | section | what is required | where | test |
//! |---|---|---|---|
//! | 2.2 | a bare CR, and white space before the first field, are refused | hyper | `rfc9112_2_2_a_bare_cr_and_space_before_the_first_field_are_refused` |
//! | 2.3 | a gateway sends its own version | `core::wire::request`, hyper | `rfc9112_2_3_an_http_1_0_client_is_served_in_its_own_terms` |
//! | 3 | a target that is too long is answered 414 | hyper | `rfc9112_3_an_overlong_target_is_refused` (deviation 3) |
//! | 3.2 | exactly one valid `Host`, else 400 | `core::head` | `rfc9112_3_2_a_request_without_exactly_one_host_is_refused` |
//! | 3.2.2 | an absolute target's authority replaces the `Host` | `core::wire::request` | `rfc9112_3_2_2_an_absolute_target_is_reduced_to_its_path` |
//! | 3.2.4 | `*` goes on as it is, and stands for an absolute target without a path | `core::wire::request` | `rfc9112_3_2_4_an_asterisk_stays_one_and_an_empty_path_is_a_slash` (deviation 6) |
//! | 5.1 | no white space before a colon | hyper, `core::wire::response` | `rfc9112_5_1_space_before_a_colon_is_refused_both_ways` |
//! | 5.2 | no folded lines | hyper, `core::wire::response` | `rfc9112_5_2_a_folded_line_is_refused_both_ways` |
//! | 6.1 | a transfer coding under HTTP/1.0 is faulty | hyper, `core::wire::response` | `rfc9112_6_1_a_transfer_coding_under_http_1_0_is_faulty_both_ways` |
//! | 6.1 | a coding that is not understood is 501 | `core::head` | `rfc9112_6_1_only_the_chunked_coding_is_taken` |
//! | 6.1 | none in 1xx and 204, none to HTTP/1.0 | hyper, `core::wire::response` | `rfc9112_6_1_there_is_no_transfer_coding_where_there_is_no_body` |
//! | 6.3 | Transfer-Encoding overrides Content-Length, and the connection ends | hyper, `core::wire` | `rfc9112_6_3_a_request_with_both_framings_cannot_smuggle`, `rfc9112_6_3_a_response_with_both_framings_is_read_as_chunked` |
//! | 6.3 | a coding that does not end in `chunked`: 400, and the connection ends | hyper | `rfc9112_6_3_a_request_whose_last_coding_is_not_chunked_is_refused_and_ends_its_connection` |
//! | 6.3 | invalid or differing lengths: 400, or 502 | hyper, `core::wire::response` | `rfc9112_6_3_invalid_and_differing_lengths_are_refused_both_ways` |
//! | 7.1 | large chunk sizes do not overflow | hyper, `core::wire::body` | `rfc9112_7_1_a_chunk_size_beyond_any_number_is_refused_both_ways` |
//! | 7.1.1 | unknown chunk extensions are ignored, their length bounded | hyper, `core::wire::body` | `rfc9112_7_1_1_chunk_extensions_are_dropped_and_bounded_both_ways` |
//! | 8 | an incomplete body does not look complete | `proxy/exchange.rs`, `proxy/body.rs` | `rfc9112_8_a_truncated_response_is_seen_as_truncated` |
//! | 9.2 | bytes on an idle connection are no response | `proxy/upstream.rs`, `proxy/socket.rs` | `rfc9112_9_2_bytes_on_an_idle_connection_are_no_answer` |
//! | 9.3 | the whole request is read, or the connection ends | hyper, `proxy/mod.rs` | `rfc9112_9_3_after_an_early_answer_the_rest_of_the_body_is_no_request` |
//! | 9.3.2 | pipelined requests are answered in order | hyper | `rfc9112_9_3_2_a_slow_first_answer_holds_back_the_second` |
//! | 9.6 | after `close` no request is processed | hyper | `rfc9112_9_6_a_client_that_says_close_is_closed` |
//! | 9.6 | who goes on with the connection does not say `close`, as the handshake may have | `core::wire::switch` | `rfc9112_9_6_a_101_never_says_close` |
//! | 9.6 | who ends the connection says so, and what was said arrives | `proxy/mod.rs`, `proxy/client/socket.rs` | `rfc9112_9_6_an_http_1_0_client_is_not_told_that_a_connection_stays_which_ends`, `rfc9112_9_6_an_answer_of_our_own_reaches_who_is_still_sending` |
//!
//! # RFC 9110, HTTP semantics
//!
//! | section | what is required | where | test |
//! |---|---|---|---|
//! | 5.1, 5.3 | unknown fields pass, lines of one name in their order | `core::headers` | `rfc9110_5_3_everything_else_passes_in_order` |
//! | 5.5 | CR, LF and NUL in values are refused | hyper, `core::wire::response` | `rfc9110_5_5_control_bytes_in_values_are_refused_both_ways` |
//! | 6.5 | trailers reach who takes them | `core::wire::request`, `core::wire::body` | `rfc9110_6_5_response_trailers_reach_a_client_that_takes_them` |
//! | 6.5.1 | trailers are never merged into the head | `core::headers`, `proxy/upload.rs` | `rfc9110_6_5_1_response_trailers_do_no_harm`, `rfc9110_6_5_1_request_trailers_are_dropped` |
//! | 6.6.1 | a response without `Date` gets one | hyper, `core::wire::switch` | `rfc9110_6_6_1_a_response_without_a_date_gets_one` |
//! | 7.6 | no message goes round in circles | `core::head` | `rfc9110_7_6_a_loop_is_ended` |
//! | 7.6.1 | `Connection` and what it names stop at each hop, trailers included | `core::headers` | `rfc9110_7_6_1_fields_for_one_hop_do_not_reach_the_pod`, `rfc9110_7_6_1_fields_for_one_hop_do_not_reach_the_client`, `rfc9110_7_6_1_a_trailer_that_connection_names_stops_here` |
//! | 7.6.2 | `Max-Forwards` of OPTIONS is counted down | `core::head`, `core::wire::request` | `rfc9110_7_6_2_max_forwards_is_counted_down_and_ends_here_at_0` |
//! | 7.6.3 | a gateway adds itself to `Via` | `core::wire::request` | `rfc9110_7_6_3_via_grows_by_the_router` |
//! | 7.7 | path and query are not modified | `core::wire::request` | `rfc9110_7_7_the_target_goes_to_the_pod_byte_for_byte` |
//! | 7.8 | no switch to what was not offered; none under HTTP/1.0 | `core::head`, `proxy/forward.rs` | `rfc9110_7_8_other_upgrades_are_forwarded_as_plain_requests`, `rfc9110_7_8_an_http_1_0_upgrade_is_ignored`, `rfc9110_7_8_a_101_that_was_not_asked_for_is_a_bad_gateway`, `rfc9110_7_8_a_101_to_another_protocol_is_a_bad_gateway` |
//! | 7.8 | a 100 that was asked for comes before the 101: a handshake that expects one is 417 | `core::head` | `rfc9110_7_8_a_handshake_that_expects_100_is_not_switched_without_it` |
//! | 8.6 | no wrong Content-Length is forwarded | `core::wire::response` | `rfc9110_8_6_a_repeated_length_is_forwarded_once` |
//! | 9.2.2 | what is not idempotent is not repeated (here: nothing is) | `core::decision` | `rfc9110_9_2_2_a_request_the_pod_has_read_is_never_sent_again` |
//! | 9.3.2, 8.6 | no body to HEAD, with 204 and 304; their fields stay | `core::wire::response`, hyper | `rfc9110_9_3_2_responses_without_a_body_keep_their_heads` (deviation 2) |
//! | 9.3.6 | CONNECT is refused; a tunnel delivers what is outstanding, then ends | `core::head`, `proxy/tunnel.rs` | `rfc9110_9_3_6_connect_and_trace_are_refused`, `rfc9110_9_3_6_the_clients_half_close_is_passed_on`, `rfc9110_9_3_6_the_pods_half_close_is_passed_on` |
//! | 10.1.1 | `100-continue` is answered; other expectations are 417 | hyper, `core::head` | `rfc9110_10_1_1_a_client_that_expects_100_gets_it_before_it_sends`, `rfc9110_10_1_1_an_expectation_that_cannot_be_met_is_refused` (deviation 4) |
//! | 10.2.1 | `Allow` is not modified | `core::headers` | `rfc9110_10_2_1_allow_passes_as_it_is` |
//! | 11.6 | nor are credentials and challenges | `core::headers` | `rfc9110_11_6_credentials_and_challenges_pass_as_they_are` |
//! | 12.5.5 | never `Vary: *` of its own | `proxy/reject.rs` | `rfc9110_12_5_5_what_depends_on_accept_says_so_and_never_on_everything` |
//! | 13.2.1 | conditions are forwarded, not judged | `core::headers` | `rfc9110_13_2_1_conditions_are_forwarded_and_not_judged` |
//! | 15.2 | 1xx is forwarded | nowhere | `rfc9110_15_2_informational_responses_are_swallowed_cleanly` (deviation 1) |
//! | 15.5.20 | 421 is never the proxy's own | `proxy/reject.rs` | `rfc9110_15_5_20_the_router_never_says_421` |
//!
//! # RFC 6455, WebSocket
//!
//! | section | what is required | where | test |
//! |---|---|---|---|
//! | 4.1 | a handshake is GET, HTTP/1.1, without a body; its fields pass | `core::head`, `core::wire::request` | `rfc6455_4_1_a_handshake_with_a_body_is_refused`, `rfc6455_4_1_the_pod_gets_the_handshake_as_it_was` |
//! | 4.2.1 | it has every part, options in any case and company | `core::head` | `rfc6455_4_2_1_what_lacks_a_part_is_an_ordinary_request`, `rfc6455_4_2_1_the_upgrade_option_is_found_among_others_and_in_any_case` |
//! | 4.2.2 | only the answer to its key accepts it; its fields pass | `proxy/upgrade.rs` | `rfc6455_4_2_2_only_the_answer_to_the_key_opens_a_tunnel`, `rfc6455_4_2_2_the_client_gets_the_pods_101_as_it_was` |
//! | 5.4 | frames are not touched | `proxy/tunnel.rs` | `rfc6455_5_4_bytes_that_are_no_frames_pass_as_well`, `rfc6455_5_4_large_streams_pass_both_ways_at_once_intact` |
//!
//! # Deviations
//!
//! 1. **Informational responses are not relayed**, but for the `100` that the router sends itself: hyper's server cannot
//!    send them. They are taken off the pod's connection, and the final response is intact.
//! 2. **A 304 loses its Content-Length**: hyper's server writes none. HEAD's stays.
//! 3. **An overlong target is 431, not 414**, where it is the head's limit (`--max-header-bytes`) that it exceeds first, as it
//!    is by default: hyper counts both together. From 65 535 bytes on it is 414, where the head may be that long.
//! 4. **`Expect: 100-continue` is not forwarded.** The router says 100 when the body is wanted; a pod that would have
//!    refused by the head alone can still do so by its early answer.
//! 5. **A foreign version is 400, not 505**: hyper refuses it as malformed. HTTP/2's preface is closed without a word.
//! 6. **An OPTIONS for `http://host` without a path** is forwarded as `/`, not as `*` (RFC 9112 section 3.2.4): parsed, it
//!    cannot be told from `http://host/`, whose preflights must not become `*`. Gateways are rarely sent that form.
//! 7. **Field names reach both sides in lower case** (section 5.1: case does not matter).
//! 8. **A HEAD's answer says no `Transfer-Encoding`** where GET's would be chunked (RFC 9110 section 9.3.2 allows both).
//! 9. **A fragment in a target is dropped** (RFC 9112 section 3.2 has none there, so 400 would do as well): hyper takes it
//!    off before anybody sees it. What is routed by is what the pod gets, as the corpus holds (`a fragment ...`).
//! 10. **A client's half-close ends its request** (RFC 9112 section 9.6 lets either side half-close): a client that has
//!     closed its sending side cannot be told from one that has gone, and that one has to be noticed while its pod is
//!     silent (`a_client_that_goes_away_is_noticed_whatever_lies_behind_its_request`). So is one that does so within its
//!     body; it gets no 400, which section 8 would allow.
//! 11. **A handshake that lacks a part is neither refused nor forwarded as one** (RFC 6455 section 4.2.1 has a server that
//!     looks at it refuse it): it goes on without `Upgrade`, which RFC 9110 section 7.8 lets anyone ignore, and the pod says
//!     what it says to a plain GET.
//!
//! `tests/it/peers` makes every exchange twice, straight to a real server and through the router, with and without an
//! ingress in front, and finds no difference but 7, 8 and the fields that the README lists as added.
