package main

import (
	"vipspeaker/pkg/control"

	"github.com/spf13/cobra"
)

func newFailbackCommand(f *flags) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "failback VIP",
		Short: "Announce a VIP with its rank again, after a takeover",
		Long: `Announce a VIP, given by its name or address, with its rank again. A host whose
role.failback is manual or idle and that comes back announces it as worse than
any rank while another host is seen that has taken over. From this order on
routers choose by the ranks again.`,
		Args: takes(1, 1),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			client := f.client()
			defer client.Close()
			if err := client.Failback(cmd.Context(), args[0]); err != nil {
				return err
			}
			if o == asJSON {
				return printJSON(cmd.OutOrStdout(), control.Done{OK: true})
			}
			return nil
		}),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return completeVIP(cmd.Context(), f, args)
		},
	}
	addOutputFlag(cmd, &o)
	return cmd
}
