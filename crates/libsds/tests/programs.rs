//! C programs against the libraries: as they are, under valgrind, and with the address sanitizer, which both watch the library's memory, too.

mod common;

use common::{Kind, libraries, passes};

const WATCHED: [Kind; 3] = [Kind::Shared, Kind::AddressSanitizer, Kind::Valgrind];

#[test]
fn the_nine_functions_do_what_nim_sds_does() {
    for kind in WATCHED {
        passes("tests/c/classic.c", kind, &[]);
    }
}

#[test]
fn the_static_library_does_the_same() {
    passes("tests/c/classic.c", Kind::Static, &[]);
}

#[test]
fn a_program_that_works_as_the_go_bindings_do() {
    for kind in WATCHED {
        passes("tests/c/go_pattern.c", kind, &[]);
    }
}

#[test]
fn misuse_is_refused_and_callbacks_may_call_back_in() {
    for kind in WATCHED {
        passes("tests/c/misuse.c", kind, &[]);
    }
}

#[test]
fn what_a_program_has_ended_or_taken_away_is_not_called_again() {
    for kind in WATCHED {
        passes("tests/c/reentry.c", kind, &[]);
    }
}

#[test]
fn a_callback_that_never_returns_holds_up_nobody_else() {
    for kind in WATCHED {
        passes("tests/c/stuck.c", kind, &[]);
    }
}

#[test]
fn the_library_may_be_unloaded_while_a_callback_runs() {
    let library = libraries().join("libsds.so");
    let library = library.to_str().expect("a path in UTF-8");
    for kind in WATCHED {
        passes("tests/c/unload.c", kind, &[library]);
    }
}

#[test]
fn eight_threads_on_one_context_get_one_callback_for_each_call() {
    passes("tests/c/threads.c", Kind::Shared, &["1000"]);
    passes("tests/c/threads.c", Kind::AddressSanitizer, &["50"]);
    passes("tests/c/threads.c", Kind::Valgrind, &["20"]);
}

#[test]
fn a_thousand_managers_live_at_once() {
    passes("tests/c/many.c", Kind::Shared, &["1024"]);
    passes("tests/c/many.c", Kind::AddressSanitizer, &["1024"]);
    // Valgrind has room for five hundred threads.
    passes("tests/c/many.c", Kind::Valgrind, &["100"]);
}

#[test]
fn a_participant_with_a_store_survives_a_restart_and_tells_more() {
    for kind in WATCHED {
        passes("tests/c/store.c", kind, &[]);
    }
}
