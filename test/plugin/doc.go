// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package plugin uses kubectl chatrun as people and scripts do: the built program,
// through pipes and through a pseudo-terminal whose screen is looked at, against the
// test control plane with the front door open and the real manager behind it. There is
// no node: what a kubelet does for a port-forward is done by the kubelet's own library.
package plugin
