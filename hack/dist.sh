#!/bin/sh
# Copyright The ChatRun Authors.
# SPDX-License-Identifier: Apache-2.0

# Writes what is installed without this tree: dist/install.yaml, and the parts of
# the chart that are generated, so that config/ alone says what they are. It needs
# kubectl in $KUBEBUILDER_ASSETS: always the same one, so the bytes are the same.
set -eu
cd "$(dirname "$0")/.."

mkdir -p dist
{
	echo '# Generated from config/default by make dist. The image is a placeholder.'
	"$KUBEBUILDER_ASSETS/kubectl" kustomize config/default
} >dist/install.yaml.new
mv dist/install.yaml.new dist/install.yaml

files=charts/chatrun-operator/files
rm -rf "$files"
mkdir -p "$files/crds" "$files/rbac" "$files/users"
cp config/crd/bases/*.yaml "$files/crds/"
cp config/rbac/role.yaml config/rbac/*_role.yaml "$files/rbac/"
cp config/rbac/users/chat*.yaml "$files/users/"

# A kustomization takes no file from outside of its folder.
sed -e 's/^kind: ClusterRole$/kind: Role/' -e 's/^  name: manager-role$/  name: chatrun-manager-role/' \
	config/rbac/role.yaml >config/namespaced/watched/role.yaml
