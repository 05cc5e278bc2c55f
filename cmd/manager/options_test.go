// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		err  string // part of it, "" for none
	}{
		{"defaults", nil, ""},
		{"everything", []string{"--lease-namespace", "ns", "--lease-duration", "20s", "--drain-grace", "0s", "--worker-process", "uid", "--stream-bind-address", "127.0.0.1:0", "--health-probe-bind-address", ":8081",
			"--worker-name", "w", "--deny-provider-cidrs", "10.0.0.0/8", "--egress-proxy", "http://proxy:3128", "--zap-log-level", "debug", "--shard-runs"}, ""},
		{"some namespaces", []string{"--watch-namespaces", "team-b, team-a,team-b"}, ""},
		{"namespaces that are none", []string{"--watch-namespaces", "team-a,team_b"}, `--watch-namespaces "team_b"`},
		{"a share of some namespaces", []string{"--watch-namespaces", "team-a", "--shard-runs"}, "exclude each other"},
		{"off", []string{"--stream-bind-address", "0", "--metrics-bind-address", "0", "--health-probe-bind-address", "0"}, ""},
		{"no port", []string{"--stream-bind-address", "localhost"}, "--stream-bind-address"},
		{"no port for probes", []string{"--health-probe-bind-address", "here"}, "--health-probe-bind-address"},
		{"profiles for this machine", []string{"--pprof-bind-address", "127.0.0.1:6060"}, ""},
		{"profiles for anybody", []string{"--pprof-bind-address", ":6060"}, "must be on loopback"},
		{"profiles for the network", []string{"--pprof-bind-address", "10.0.0.1:6060"}, "must be on loopback"},
		{"profiles without a port", []string{"--pprof-bind-address", "localhost"}, "--pprof-bind-address"},
		{"unknown flag", []string{"--leader-elect"}, "not defined"},
		{"a name that no Lease can have", []string{"--worker-name", "Me"}, "--worker-name"},
		{"a name that is too long", []string{"--worker-name", strings.Repeat("w", 201)}, "at most 200"},
		{"a namespace that is none", []string{"--lease-namespace", "a.b"}, "--lease-namespace"},
		{"a Lease that is too short", []string{"--lease-duration", "2s"}, "--lease-duration"},
		{"a Lease of a fraction", []string{"--lease-duration", "15500ms"}, "--lease-duration"},
		{"a Lease that nobody believes", []string{"--lease-duration", "1h"}, "--lease-duration"},
		{"a negative grace", []string{"--drain-grace", "-1s"}, "--drain-grace"},
		{"metrics for all of this machine, with a certificate", []string{"--metrics-cert-dir", "/somewhere"}, "--metrics-cert-dir"},
		{"a certificate for metrics that is missing", []string{"--metrics-bind-address", ":8443", "--metrics-cert-dir", "/missing"}, "--metrics-cert-dir"},
		{"no port for metrics", []string{"--metrics-bind-address", "here"}, "--metrics-bind-address"},
		{"traces", []string{"--traces-endpoint", "http://collector:4318", "--traces-ratio", "0.1"}, ""},
		{"traces for nobody", []string{"--traces-ratio", "0.1"}, "no --traces-endpoint"},
		{"an argument", []string{"run"}, `unexpected argument "run"`},
		{"bad duration", []string{"--provider-header-timeout", "soon"}, "invalid value"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o, err := parse(tc.args)
			switch {
			case tc.err == "" && (err != nil || o == nil || o.replica.worker == "" || o.replica.namespace == ""):
				t.Errorf("%+v, %v", o, err)
			case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
				t.Errorf("error %v, want one that says %q", err, tc.err)
			}
		})
	}
}

func TestHelpIsNoError(t *testing.T) {
	if o, err := parse([]string{"--help"}); o != nil || err != nil {
		t.Errorf("%v, %v", o, err)
	}
}

func TestList(t *testing.T) {
	for in, want := range map[string][]string{"": nil, " , ": nil, "a": {"a"}, " a, b ,,c ": {"a", "b", "c"}} {
		if got := list(in); !slices.Equal(got, want) {
			t.Errorf("list(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestRestConfigHasNoThrottleOfItsOwn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	kubeconfig := `{"apiVersion":"v1","kind":"Config","current-context":"c",
		"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
		"clusters":[{"name":"c","cluster":{"server":"https://127.0.0.1:1"}}],"users":[{"name":"u"}]}`
	if err := os.WriteFile(file, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := (&options{kubeconfig: file}).restConfig()
	if err != nil || cfg.QPS >= 0 || cfg.Host != "https://127.0.0.1:1" {
		t.Errorf("%+v, %v", cfg, err)
	}
	if _, err := (&options{kubeconfig: file + ".missing"}).restConfig(); err == nil {
		t.Error("a kubeconfig that is missing was found")
	}
}

// TestRunSaysWhatIsWrong goes through the whole program as far as it gets
// without a cluster.
func TestRunSaysWhatIsWrong(t *testing.T) {
	err := run(t.Context(), []string{"--kubeconfig", filepath.Join(t.TempDir(), "missing")})
	if err == nil || !strings.Contains(err.Error(), "finding the API server") {
		t.Errorf("error %v", err)
	}
}

// TestMetricsAddress: whatever others may reach asks who they are.
func TestMetricsAddress(t *testing.T) {
	for address, local := range map[string]bool{
		"127.0.0.1:8080": true, "localhost:8080": true, "[::1]:8080": true, "127.1.2.3:0": true,
		":8443": false, "0.0.0.0:8443": false, "[::]:8443": false, "10.0.0.1:8443": false, "metrics.example:8443": false,
	} {
		o, err := parse([]string{"--worker-name=me", "--metrics-bind-address", address})
		if err != nil {
			t.Fatal(err)
		}
		served, err := o.metrics.server()
		if err != nil {
			t.Fatal(err)
		}
		if served.SecureServing == local || (served.FilterProvider == nil) != local {
			t.Errorf("%s: HTTPS %t, asks %t", address, served.SecureServing, served.FilterProvider != nil)
		}
		if strings.HasPrefix(served.BindAddress, "localhost") {
			t.Error("localhost is looked up")
		}
	}
}
