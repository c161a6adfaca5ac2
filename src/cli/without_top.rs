//! `whimbrel top` of a program that was built without the cargo feature `top`.

use std::ffi::OsString;

use clap::Args;

/// Takes whatever the real one takes, so that the answer is [`NoTop`] and not a complaint about
/// an argument.
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub struct WithoutTop {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<OsString>,
}

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
#[error(
    "this program was built without 'top': build it with the cargo feature 'top', \
     or ask the virtual machine's monitor with 'info migrate'"
)]
pub struct NoTop;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    enum Cli {
        Top(WithoutTop),
    }

    #[test]
    fn whatever_is_asked_of_it_is_left_to_the_one_sentence() {
        for arguments in ["", "/run/there.qmp", "--once --json /run/there.qmp", "--help", "--nonsense", "-h"] {
            let words = ["whimbrel", "top"].into_iter().chain(arguments.split_whitespace());
            assert!(Cli::try_parse_from(words).is_ok(), "{arguments}");
        }
        let sentence = NoTop.to_string();
        assert!(sentence.contains("feature 'top'") && sentence.contains("'info migrate'"), "{sentence}");
    }
}
