package main

import (
	"errors"
	"fmt"

	"vipspeaker/pkg/config"

	"github.com/spf13/cobra"
)

// checkResult is what `check -o json` prints.
type checkResult struct {
	OK     bool         `json:"ok"`
	File   string       `json:"file"`
	Errors []checkError `json:"errors"`
	// Notes are what cannot work on this host as it is now. They are no errors.
	Notes []checkError `json:"notes"`
}

// checkError is one mistake in the configuration.
type checkError struct {
	Path    string `json:"path"`
	Line    int    `json:"line,omitempty"`
	Value   string `json:"value,omitempty"`
	Problem string `json:"problem"`
}

func newCheckCommand(f *flags) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Validate the configuration file; touches nothing",
		Long: `Validate the configuration file and print every mistake in it, one line each.
Nothing on the host is touched and the daemon is not asked. What is right but
cannot work on this host as it is now, such as an IPv6 peer on an interface that
has IPv4 addresses only, is noted on stderr and changes no exit code.
FILE is the same as --config FILE.`,
		Args: cobra.MaximumNArgs(1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			path := f.config
			if len(args) > 0 {
				path = args[0]
			}
			return check(cmd, path, o)
		}),
	}
	addOutputFlag(cmd, &o)
	return cmd
}

func check(cmd *cobra.Command, path string, o output) error {
	cfg, err := config.Load(path)
	notes := []checkError{}
	if err == nil {
		notes = append(notes, hostNotes(cfg)...)
	}
	if o == asJSON {
		if printErr := printJSON(cmd.OutOrStdout(), newCheckResult(path, err, notes)); printErr != nil {
			return printErr
		}
	} else if err == nil {
		for _, n := range notes {
			if _, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s: note: %s: %s: %s\n", path, n.Path, n.Value, n.Problem); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: good: %s, %s\n", path, count(len(cfg.Interfaces), "interface"), count(len(cfg.VIPs), "VIP"))
		return err
	} else if _, printErr := fmt.Fprintln(cmd.OutOrStdout(), err); printErr != nil {
		return printErr
	}
	if err != nil {
		return &badEnd{} // the mistakes are printed
	}
	return nil
}

func newCheckResult(path string, err error, notes []checkError) checkResult {
	r := checkResult{OK: err == nil, File: path, Errors: []checkError{}, Notes: notes}
	mistakes, ok := errors.AsType[*config.Errors](err)
	switch {
	case ok:
		for _, m := range mistakes.List {
			r.Errors = append(r.Errors, checkError{m.Path, m.Line, m.Value, m.Problem})
		}
	case err != nil:
		r.Errors = append(r.Errors, checkError{Problem: err.Error()})
	}
	return r
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
