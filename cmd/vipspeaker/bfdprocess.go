package main

import (
	"os/exec"

	"vipspeaker/pkg/bfd"

	"github.com/spf13/cobra"
)

// bfdCommand is the name of the hidden command that is the BFD process.
const bfdCommand = "bfd-process"

// newBFDProcessCommand is what the daemon executes while BFD sessions are
// wanted: it runs them all and talks with the daemon over an inherited socket.
func newBFDProcessCommand() *cobra.Command {
	return &cobra.Command{
		Use:    bfdCommand,
		Short:  "Be the process of all BFD sessions; started by run",
		Hidden: true,
		Args:   takes(0, 0),
		RunE:   does(func(cmd *cobra.Command, _ []string) error { return bfd.ServeInherited(cmd.Context()) }),
	}
}

// bfdProcess is the command of the BFD process: this program again, also when
// its file has been replaced since.
func bfdProcess() *exec.Cmd {
	return exec.Command("/proc/self/exe", bfdCommand) //nolint:noctx // the manager ends it
}
