package main

import (
	"vipspeaker/internal/privilege"

	"github.com/spf13/cobra"
)

// newFileCapabilitiesCommand is for the build of the container image.
func newFileCapabilitiesCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "file-capabilities FILE",
		Short:  "Give an executable file the capabilities that the daemon needs",
		Hidden: true,
		Args:   takes(1, 1),
		RunE:   does(func(_ *cobra.Command, args []string) error { return privilege.MarkFile(args[0]) }),
	}
}
