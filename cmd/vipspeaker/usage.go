package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// takes is for a command that takes from least to most arguments, which are those
// of its Use.
func takes(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= most {
			return nil
		}
		_, want, _ := strings.Cut(cmd.Use, " ")
		name := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
		switch {
		case most > 0:
			return fmt.Errorf("%s takes %s, not %s", name, want, count(len(args), "argument"))
		case cmd.HasAvailableSubCommands():
			return unknownCommand(cmd, args[0])
		}
		return fmt.Errorf("%q: %s takes no arguments", args[0], name)
	}
}

// unknownCommand is the error for a command that there is not, with those that it
// may have been, or that there are if they are few.
func unknownCommand(cmd *cobra.Command, name string) error {
	cmd.SuggestionsMinimumDistance = 2 // letters, as cobra has it
	guess := ""
	if like := cmd.SuggestionsFor(name); len(like) > 0 {
		guess = "; did you mean " + strings.Join(like, " or ") + "?"
	} else if cmd.HasParent() && cmd.HasAvailableSubCommands() {
		var names []string
		for _, sub := range cmd.Commands() {
			names = append(names, sub.Name())
		}
		guess = "; there are " + strings.Join(names, ", ")
	}
	return fmt.Errorf("unknown command %q for %q%s", name, cmd.CommandPath(), guess)
}

// strictDefaults adds the commands help and completion that cobra has for every
// program, and has them refuse what they do not know: cobra's own print a help and
// end well. The output of root must be set.
func strictDefaults(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = helpTopic
		case "completion":
			cmd.Args = takes(0, 0)
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			for _, shell := range cmd.Commands() {
				shell.Args, shell.RunE = takes(0, 0), does(shell.RunE)
			}
		}
	}
}

// helpWritten has root and all below it write a help at once, and returns where the
// error is kept if that fails: cobra's own, whatever asks for it, forgets that.
func helpWritten(root *cobra.Command) *error {
	var failed error
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		var text bytes.Buffer
		out := cmd.OutOrStdout()
		cmd.SetOut(&text)
		help(cmd, args)
		cmd.SetOut(out)
		_, failed = text.WriteTo(out)
	})
	return &failed
}

// noFiles has the shell offer no files as arguments of what takes none.
func noFiles(cmd *cobra.Command) {
	if _, takesArguments, _ := strings.Cut(cmd.Use, " "); takesArguments == "" && cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	for _, sub := range cmd.Commands() {
		noFiles(sub)
	}
}

// helpTopic returns an error unless the arguments are the path of a command.
func helpTopic(cmd *cobra.Command, args []string) error {
	found, rest, err := cmd.Root().Find(args)
	if err == nil && len(rest) > 0 {
		err = unknownCommand(found, rest[0])
	}
	return err
}

// flagError says of the value of a flag what would be right.
func flagError(_ *cobra.Command, err error) error {
	bad, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	var want string
	switch bad.GetFlag().Value.Type() {
	case "uint32":
		want = "a number from 0 to 4294967295"
	case "uint64":
		want = "a number, 0 or above"
	case "duration":
		want = "a duration such as 30s or 2h"
	default:
		return err
	}
	return fmt.Errorf("--%s: %q: must be %s", bad.GetFlag().Name, bad.GetValue(), want)
}
