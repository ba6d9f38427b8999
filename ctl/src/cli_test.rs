use clap::CommandFactory;

use super::*;

/// Every command with its path, groups included.
fn commands(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    found.push((path.to_owned(), command.clone()));
    for sub in command.get_subcommands() {
        commands(sub, &format!("{path} {}", sub.get_name()), found);
    }
}

fn all_commands() -> Vec<(String, clap::Command)> {
    let mut found = Vec::new();
    commands(&Cli::command(), "clusterctl", &mut found);
    found
}

/// The lines below `Example:` in a command's help.
fn examples(command: &clap::Command) -> Vec<String> {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let Some((_, examples)) = after.split_once("Example:\n") else { return Vec::new() };
    examples.lines().map(|line| line.trim().to_owned()).collect()
}

/// Words, of which those in single quotes are one.
fn as_a_shell_does(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

#[test]
fn definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_help_renders_with_a_summary_and_an_example() {
    let all = all_commands();
    assert_eq!(all.len(), 28, "a command came or went: {:?}", all.iter().map(|c| &c.0));
    for (path, mut command) in all {
        assert!(command.get_about().is_some(), "{path} has no summary");
        let help = command.render_long_help().to_string();
        assert!(help.contains("Usage:"), "{path}");
        if !command.has_subcommands() {
            assert!(!examples(&command).is_empty(), "{path} has no example");
        }
    }
}

#[test]
fn every_example_parses_and_names_its_own_command() {
    for (path, command) in all_commands() {
        for example in examples(&command) {
            Cli::try_parse_from(as_a_shell_does(&example))
                .unwrap_or_else(|error| panic!("{path}: {example}: {error}"));
            let leaf = path.rsplit(' ').next().unwrap();
            assert!(example.contains(leaf), "{path}: {example}");
        }
    }
}

#[test]
fn global_options_stand_before_and_after_the_command() {
    let before = Cli::try_parse_from(["clusterctl", "-o", "json", "--timeout", "3s", "status"]);
    let after = Cli::try_parse_from(["clusterctl", "status", "-o", "json", "--timeout", "3s"]);
    for cli in [before.unwrap(), after.unwrap()] {
        assert_eq!(cli.global.output, Output::Json);
        assert_eq!(cli.global.timeout, Some(Duration::from_secs(3)));
    }
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    let wrong: [&[&str]; 10] = [
        &["clusterctl"],
        &["clusterctl", "stauts"],
        &["clusterctl", "vip", "move", "web"],
        &["clusterctl", "apply"],
        &["clusterctl", "apply", "-f", "x", "--revision", "seven"],
        &["clusterctl", "status", "--timeout", "soon"],
        &["clusterctl", "status", "--timeout", "1"],
        &["clusterctl", "status", "-o", "yaml"],
        &["clusterctl", "--socket", "/s", "--server", "h:1", "status"],
        &["clusterctl", "conn", "list", "--client", "not-an-address"],
    ];
    for arguments in wrong {
        let error = Cli::try_parse_from(arguments).expect_err(&format!("{arguments:?}"));
        assert_eq!(error.exit_code(), 2, "{arguments:?}");
    }
}

#[test]
fn help_documents_the_exit_codes_of_the_program() {
    use crate::failure::Exit;
    let codes = [
        (Exit::Refused, "refused"),
        (Exit::Usage, "command line"),
        (Exit::Unavailable, "no quorum"),
        (Exit::Unreachable, "reached"),
    ];
    for (exit, word) in codes {
        let line = format!("\n  {}  ", exit as u8);
        let (_, rest) = EXIT_CODES.split_once(&line).unwrap_or_else(|| panic!("{exit:?}"));
        assert!(rest.lines().next().unwrap().contains(word), "{exit:?}");
    }
}
