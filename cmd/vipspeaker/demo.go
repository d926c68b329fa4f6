package main

import (
	"errors"

	"github.com/spf13/cobra"

	"vipspeaker/internal/demo"
)

func newDemoCommand() *cobra.Command {
	var pause bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show what it does, on this machine, without a router",
		Long: `Build a host, a router and a client in network namespaces of their own, run the
real daemon on the host, let interfaces fail while traffic flows and measure
what a client sees. It takes less than a minute and leaves nothing behind. It
needs root, or a kernel that lets users make user namespaces.

Exit code 1 if anything was not as the text claims.`,
		Args: takes(0, 0),
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			return demo.Run(cmd.Context(), demoOptions(cmd, pause), cmd.ErrOrStderr())
		}),
	}
	cmd.Flags().BoolVar(&pause, "pause", false, "wait for Enter between the parts")
	return cmd
}

// newDemoStageCommand is what the command demo runs inside its namespaces.
func newDemoStageCommand() *cobra.Command {
	var pause bool
	cmd := &cobra.Command{
		Use:    demo.StageCommand,
		Hidden: true,
		Args:   takes(0, 0),
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			err := demo.Stage(cmd.Context(), demoOptions(cmd, pause))
			if err != nil && !errors.Is(err, demo.ErrNotWritten) {
				return &badEnd{} // the stage has told it
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&pause, "pause", false, "")
	return cmd
}

func demoOptions(cmd *cobra.Command, pause bool) demo.Options {
	return demo.Options{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Pause: pause}
}
