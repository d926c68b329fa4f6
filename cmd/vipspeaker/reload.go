package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newReloadCommand(f *flags) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Make the daemon read its configuration file again",
		Long: `Make the daemon read its configuration file again, as SIGHUP does, and print the
mistakes in it, one line each. A bad file leaves everything as it is.`,
		Args: takes(0, 0),
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			client := f.client()
			defer client.Close()
			result, err := client.Reload(cmd.Context())
			if err != nil {
				return err
			}
			if o == asJSON {
				err = printJSON(cmd.OutOrStdout(), result)
			} else {
				for _, line := range result.Errors {
					_, _ = fmt.Fprintln(cmd.OutOrStdout(), line)
				}
			}
			if err == nil && !result.OK {
				err = fmt.Errorf("the configuration was refused; the one before it stays in force")
			}
			return err
		}),
	}
	addOutputFlag(cmd, &o)
	return cmd
}
