"""The report: one page that people send each other. A figure is a module; `section` joins a dataset's."""

from ttl.release.report.page import write_report as write_report
