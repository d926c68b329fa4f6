package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"vipspeaker/pkg/status"

	"github.com/spf13/cobra"
)

// gobgpModule is the module whose version matters for what routers see.
const gobgpModule = "github.com/osrg/gobgp/v3"

// version is for packagers who build from something without a history, by
// -ldflags "-X main.version=v1.2.3". Else it is that of the module.
var version string

// versions is what `version -o json` prints.
type versions struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Time     string `json:"commit_time,omitempty"`
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	GoBGP    string `json:"gobgp"`
}

// readVersions returns what the linker recorded in the program.
func readVersions() versions {
	v := versions{Version: "(unknown)", Go: runtime.Version(), GoBGP: "(unknown)"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	switch {
	case version != "":
		v.Version = version
	case info.Main.Version != "":
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	for _, dep := range info.Deps {
		if dep.Path == gobgpModule {
			v.GoBGP = dep.Version
		}
	}
	return v
}

// build returns the labels of the build_info metric.
func (v versions) build() status.Build {
	return status.Build{Version: v.Version, Revision: v.Commit, GoVersion: v.Go}
}

func (v versions) String() string {
	commit := ""
	if v.Commit != "" {
		commit = fmt.Sprintf(" (commit %.12s of %s)", v.Commit, v.Time)
	}
	if v.Modified {
		commit += " with changes"
	}
	return fmt.Sprintf("vipspeaker %s%s\n%s %s/%s\ngobgp %s", v.Version, commit, v.Go, runtime.GOOS, runtime.GOARCH, v.GoBGP)
}

func newVersionCommand() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of the program, of Go and of GoBGP",
		Args:  takes(0, 0),
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			v := readVersions()
			if o == asJSON {
				return printJSON(cmd.OutOrStdout(), v)
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), v)
			return err
		}),
	}
	addOutputFlag(cmd, &o)
	return cmd
}
