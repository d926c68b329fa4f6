package main

import (
	"fmt"
	"net/http"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/health"
)

// newChecker makes the checker of a configured check.
func newChecker(c config.Check) (health.Checker, error) {
	switch {
	case c.HTTP != nil:
		return health.NewHTTP(httpConfig(c.HTTP))
	case c.TCP != nil:
		return health.NewTCP(health.TCPConfig{Address: c.TCP.Address})
	case c.Exec != nil:
		e := health.ExecConfig{Command: c.Exec.Command, Name: c.Name}
		for _, entry := range c.Exec.Env {
			e.Env = append(e.Env, string(entry))
		}
		return health.NewExec(e)
	}
	return nil, fmt.Errorf("check of unknown kind %q", c.Kind)
}

func httpConfig(c *config.HTTPCheck) health.HTTPConfig {
	out := health.HTTPConfig{
		URL: c.URL, Method: c.Method, Header: http.Header{},
		Body: c.ExpectBody, Insecure: c.Insecure, CAFile: c.CAFile,
	}
	for _, h := range c.Headers {
		out.Header.Add(h.Name, string(h.Value))
	}
	for _, r := range c.ExpectStatus {
		out.Status = append(out.Status, health.StatusRange(r))
	}
	return out
}
