// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/go-logr/logr/funcr"
	"go.opentelemetry.io/otel"

	"chatrun.dev/operator/internal/traces"
)

// TestTracesStart: what others have set for OpenTelemetry keeps no manager from starting,
// and is told of; what the flags say wrongly does.
func TestTracesStart(t *testing.T) {
	t.Setenv("OTEL_TRACES_SAMPLER", "xray")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "bad")
	var log strings.Builder
	logger := funcr.New(func(_, args string) { log.WriteString(args + "\n") }, funcr.Options{})
	o := tracesOptions{traces.Collector{URL: "http://127.0.0.1:4318", Ratio: 1}}
	told, err := o.start("me", logger)
	if err != nil || told == nil {
		t.Fatal(err)
	}
	closeTraces(t.Context(), told, logger)
	if got := log.String(); !strings.Contains(got, "unsupported sampler: xray") || !strings.Contains(got, "missing value: [bad]") {
		t.Errorf("it said\n%s", got)
	}
	log.Reset()
	for range 3 {
		otel.Handle(errors.New("no collector"))
	}
	if got := log.String(); strings.Count(got, "spans are lost") != 1 {
		t.Errorf("of three faults at once it said\n%s", got)
	}
	o.URL = "collector:4318"
	if _, err := o.start("me", logger); err == nil || !strings.Contains(err.Error(), "--traces-endpoint") {
		t.Errorf("error %v", err)
	}
	if told, err := (&tracesOptions{}).start("me", logger); told != nil || err != nil {
		t.Errorf("without an endpoint: %v, %v", told, err)
	}
}
