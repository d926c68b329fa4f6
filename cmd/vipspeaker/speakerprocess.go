package main

import (
	"vipspeaker/pkg/bgp"

	"github.com/spf13/cobra"
)

// speakerCommand is the name of the hidden command that is a speaker process.
const speakerCommand = "speaker-process"

// newSpeakerProcessCommand is what the daemon executes for each interface: one
// BGP speaker that talks with the daemon over an inherited socket.
func newSpeakerProcessCommand() *cobra.Command {
	return &cobra.Command{
		Use:    speakerCommand + " NAME",
		Short:  "Be the speaker process of one interface; started by run",
		Hidden: true,
		Args:   takes(1, 1), // the interface, so that ps shows it
		RunE:   does(func(cmd *cobra.Command, _ []string) error { return bgp.ServeInherited(cmd.Context()) }),
	}
}
