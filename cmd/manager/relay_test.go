// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// TestRelayFlags: what is taken, and where others are told to come.
func TestRelayFlags(t *testing.T) {
	for name, tc := range map[string]struct {
		args, advertised, err string
	}{
		"off":                  {"", "", ""},
		"off in words":         {"--relay-bind-address=", "", ""},
		"an IP":                {"--relay-bind-address=:8091 --relay-advertise-address=10.0.0.7", "10.0.0.7:8091", ""},
		"IPv6":                 {"--relay-bind-address=:8091 --relay-advertise-address=fd00::7", "[fd00::7]:8091", ""},
		"with a port":          {"--relay-bind-address=127.0.0.1:0 --relay-advertise-address=127.0.0.1:81", "127.0.0.1:81", ""},
		"a Secret elsewhere":   {"--relay-bind-address=:1 --relay-advertise-address=::1 --relay-ca-secret=ns/name", "[::1]:1", ""},
		"nowhere":              {"--relay-bind-address=:8091", "", "--relay-advertise-address"},
		"a name":               {"--relay-bind-address=:8091 --relay-advertise-address=pod.example", "", "neither an IP"},
		"of this machine only": {"--relay-bind-address=:8091 --relay-advertise-address=fe80::1%eth0", "", "neither an IP"},
		"any port":             {"--relay-bind-address=:0 --relay-advertise-address=10.0.0.7", "", "needs a port"},
		"no address":           {"--relay-bind-address=8091 --relay-advertise-address=10.0.0.7", "", "--relay-bind-address"},
		"no streams":           {"--relay-bind-address=:8091 --relay-advertise-address=10.0.0.7 --stream-bind-address=0", "", "--stream-bind-address"},
		"no pod's name":        {"--relay-bind-address=:8091 --relay-advertise-address=10.0.0.7 --worker-name=Me_1", "", "--worker-name"},
		"a long name":          {"--relay-bind-address=:8091 --relay-advertise-address=10.0.0.7 --worker-name=" + strings.Repeat("a", 201), "", "200"},
		"no token":             {"--relay-bind-address=:8091 --relay-advertise-address=10.0.0.7 --relay-token-file=", "", "--relay-token-file"},
		"no Secret's name":     {"--relay-bind-address=:8091 --relay-advertise-address=10.0.0.7 --relay-ca-secret=A", "", "--relay-ca-secret"},
	} {
		t.Run(name, func(t *testing.T) {
			args := strings.Fields(tc.args)
			if !strings.Contains(tc.args, "--worker-name") {
				args = append(args, "--worker-name=manager-a")
			}
			o, err := parse(args)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := o.relay.advertised(); err != nil || got != tc.advertised {
				t.Errorf("advertised %q, %v", got, err)
			}
		})
	}
}
